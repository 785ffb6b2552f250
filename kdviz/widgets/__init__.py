"""The JupyterLab app: selections and observers around `kdviz.render`; stock ipywidgets only.

Looking never measures: everything shown follows from stored gains, without network or torch. There is one
state object, `Selection`; one function from it to what is shown, `Scene.look`; and widgets that set the one
and draw the other.
"""

from collections.abc import Sequence

from kdviz.errors import MissingExtraError

try:
    import ipywidgets  # noqa: F401
except ImportError as error:
    raise MissingExtraError("the app needs ipywidgets: install kdviz[view]") from error

from traitlets import TraitError

from kdviz.analysis import Settings
from kdviz.store.run import Store, as_run
from kdviz.widgets.explorer import Explorer
from kdviz.widgets.scene import Scene, View
from kdviz.widgets.selection import Selection

__all__ = ["Explorer", "Selection", "View", "explore"]


def explore(
    run: Store,
    *,
    settings: Settings | None = None,
    layer: str | None = None,
    networks: Sequence[str] | None = None,
    sample: str | None = None,
    epoch: int | None = None,
    overlay: str = "entropy",
    opacity: float = 0.7,
    azimuth: int = 30,
    histogram: str = "entropy",
) -> Explorer:
    """Look at a run: its networks side by side, every setting live.

    Shows, for the selected sample (an image, a text, or a cloud of points), the input, the entropies, the
    knowledge points on foreground and background, and the points tried and dropped so far; below, the counts
    over epochs, a histogram of the units, and this sample's foreground points over the weight distance; and
    what is known of the whole run, in the chapters of the report, under the settings of the moment. The last
    expression of a notebook cell puts it on the page; it works the same in JupyterLab and as a Voila
    page, and needs no extension.

    Parameters
    ----------
    run
        Run directory, exported ``.nc`` file, folder of a study, or an open run.
    settings
        How points follow from gains; by default the weight of the measurement and the threshold of the run.
    layer, networks, sample, epoch
        What to show first: layer (the papers' name where the run records one), one to six names of networks
        measured there, sample and completed epochs. By default the first layer and sample, the last epoch;
        the teacher, the first student and its baseline, or the first few networks there are.
    overlay
        ``"entropy"``, or the name of an attribution method whose maps the run holds.
    opacity
        Of the overlay, from 0 to 1.
    azimuth
        Of a cloud, in degrees from 0 to 359: where the viewer stands, see :func:`kdviz.render.project_cloud`.
    histogram
        ``"entropy"`` or ``"gain"``.

    Returns
    -------
    Explorer
        Its `selection` holds the arguments above as traits; setting one moves the app. Its `save` writes the
        view to a file.

    Raises
    ------
    StoreError, SchemaError
        If there is no run, it is damaged or empty.
    ValueError
        If the units are no grid, words or points in space, or an argument is not among what the run holds.

    Notes
    -----
    A run that is being measured is shown as far as epochs are finished, and looked at again every few seconds
    while the app is on a page; `Explorer.refresh` does so at once. What goes wrong in a callback is shown in
    red above the panels; with the environment variable ``KDVIZ_STRICT=1`` it is raised as well, which makes a
    notebook test fail.
    """
    scene = Scene(as_run(run))
    try:
        selection = Selection(
            scene,
            settings=settings,
            layer=layer,
            networks=networks,
            sample=sample,
            epoch=epoch,
            overlay=overlay,
            opacity=opacity,
            azimuth=azimuth,
            histogram=histogram,
        )
    except TraitError as error:  # a type or an end of a range, as traitlets says it
        raise ValueError(str(error)) from error
    return Explorer(scene, selection)
