"""What a loss is: which layers it reads, what it trains, and what it makes of both networks' outputs.

A loss knows no loop, folder or optimiser. Symbols: ``B`` samples of a batch, ``N`` samples of the data.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from kdviz.arguments import finite_number
from kdviz.distillation.identity import identify
from kdviz.networks.layouts import FindLayout, Turn, give_layout

LOGITS = ""
"""Stands, among the layers that a loss reads, for what the network itself gives."""


class Outputs(dict[str, Tensor]):
    """What a loss reads of a network on one batch: tensors ``(B, ...)`` as the layers give them, by layer.

    Parameters
    ----------
    values
        Tensors by layer.
    layouts
        Finds how a layer's output becomes a map; None for a network that takes no images, or an unknown one.
    """

    def __init__(self, values: Mapping[str, Tensor] | None = None, layouts: FindLayout | None = None) -> None:
        super().__init__(values or {})
        self.layouts = layouts

    def as_map(self, layer: str, layout: Turn | None = None, argument: str = "layout") -> Tensor | None:
        """Return what a layer gives as maps ``(B, channels, H, W)``, or None where it gives none.

        Parameters
        ----------
        layer
            One of those that are read.
        layout
            Turns its output to maps; by default as :mod:`kdviz.networks.layouts` finds. Where the network
            takes no images, four axes are maps as they are.
        argument
            What the user gives `layout` as, for messages.

        Raises
        ------
        LayerError
            If the layout cannot be known, or `layout` makes no map.
        """
        output = self[layer]
        if layout is not None:
            return give_layout(layer, output, layout, argument).turn(output)
        found = None if self.layouts is None else self.layouts(layer, argument)
        if found is not None:
            return found.turn(output)
        if output.ndim != 4:
            return None
        is_one_cell_last = self.layouts is not None and output.shape[1:3] == (1, 1)
        return output.movedim(-1, 1) if is_one_cell_last else output

    @property
    def logits(self) -> Tensor:
        """What the network itself gives."""
        if LOGITS not in self:
            raise KeyError("the loss reads no logits: its layers lack kdviz.distillation.LOGITS")
        return self[LOGITS]


class Loss:
    """Base of all losses; a subclass sets what differs and defines ``__call__``.

    Plain values among its attributes are its settings: a stored training is resumed only by an equal loss.
    What it draws comes from torch's global generators, which training seeds anew in every epoch.

    Attributes
    ----------
    layers
        Layers of the student that are read, `LOGITS` for its end. The forward pass stops at the last of them.
    teacher_layers
        Those of the teacher; None: the same; none at all: no teacher is read.
    up_to
        Last layer of the student that is trained; what lies beyond keeps every bit. None: no end.
    beyond
        Last layer of the student that is frozen, in eval mode, with all that it depends on. None: nothing is.
    parts
        Trained beside the student, such as a regressor, and saved and resumed with it. Whatever else changes
        in training, such as a memory of features, must be a buffer of it. Those whose size follows from the
        networks or the data are made by `prepare`.
    needs_labels, needs_teacher
        Whether training without is refused.
    begins_as_teacher
        Whether a study starts the student from the teacher's weights.
    """

    layers: Sequence[str] = (LOGITS,)
    teacher_layers: Sequence[str] | None = None
    up_to: str | None = None
    beyond: str | None = None
    parts: nn.Module | None = None
    needs_labels: bool = False
    needs_teacher: bool = False
    begins_as_teacher: bool = False

    def prepare(self, student: Outputs, teacher: Outputs | None, samples: int, labels: Tensor | None) -> None:
        """Refuse networks that do not suit the loss, and make the parts that fit them, before any work.

        Called at the start of every training, resumed ones included, and to try a loss: parts are made anew.
        What they draw from torch's global generators follows from the plan's seed alone.

        Parameters
        ----------
        student, teacher
            As for a call, of one sample, in eval mode, without gradients.
        samples
            ``N``.
        labels
            Of all samples, ``(N,)``, int64, on the CPU; None if there are none.

        Raises
        ------
        ValueError
            If they do not.
        """

    def __call__(
        self, student: Outputs, teacher: Outputs | None, labels: Tensor | None, rows: Tensor
    ) -> Tensor:
        """Return the batch's loss: one number, the mean over its samples.

        Parameters
        ----------
        student
            In train mode, with gradients.
        teacher
            In eval mode, without; None if there is no teacher.
        labels
            ``(B,)``, int64; None if there are none.
        rows
            ``(B,)``, int64: where in the data the samples lie.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no __call__")

    def describe(self) -> dict[str, Any]:
        """Return name and settings, ready for JSON; tensors and functions by a hash, modules left out.

        Raises
        ------
        TypeError
            If a setting, or what a function uses, has nothing that tells it from others.
        """
        declared = ("layers", "teacher_layers", "up_to", "beyond")
        settings = {name: getattr(self, name) for name in declared} | vars(self)
        plain = {
            name: identify(value) for name, value in settings.items() if not isinstance(value, nn.Module)
        }
        return {"name": type(self).__qualname__, **plain}


class MixedLoss(Loss):
    """``class_weight`` times the cross-entropy of the labels and ``weight`` times what `distil` returns.

    Parameters
    ----------
    class_weight, weight
        0 or more; gamma, and alpha or beta, of Ojha et al., NeurIPS 2023, section 3.

    Raises
    ------
    ValueError
        If one is no such number.
    """

    needs_labels = True

    def __init__(self, class_weight: float, weight: float) -> None:
        self.class_weight = finite_number("class_weight", class_weight, least=0)
        self.weight = finite_number("weight", weight, least=0)

    def __call__(
        self, student: Outputs, teacher: Outputs | None, labels: Tensor | None, rows: Tensor
    ) -> Tensor:
        """Return the sum of both, means over the batch."""
        assert labels is not None
        answers = functional.cross_entropy(student.logits, labels)
        distilled = self.distil(student, Outputs() if teacher is None else teacher, labels, rows)
        return self.class_weight * answers + self.weight * distilled

    def distil(self, student: Outputs, teacher: Outputs, labels: Tensor, rows: Tensor) -> Tensor:
        """Return what is learned beside the labels: one number, the mean over the batch."""
        raise NotImplementedError(f"{type(self).__name__} defines no distil")


class MapLoss(MixedLoss):
    """A mixed loss of feature maps, wherever networks have positions and channels.

    Parameters
    ----------
    class_weight, weight
        As of `MixedLoss`.
    layout, teacher_layout
        Turn what layers of the student, and of the teacher, give to maps ``(B, channels, H, W)``; by default
        as :mod:`kdviz.networks.layouts` finds.

    Raises
    ------
    ValueError
        If a weight is not as said.
    TypeError
        If a layout is no function.
    """

    layout: Turn | None = None
    teacher_layout: Turn | None = None

    def __init__(
        self, class_weight: float, weight: float, layout: Turn | None, teacher_layout: Turn | None
    ) -> None:
        super().__init__(class_weight, weight)
        for name, turn in (("layout", layout), ("teacher_layout", teacher_layout)):
            if turn is None:
                continue  # not a setting: trainings stored before it could be said are known again
            if not callable(turn):
                raise TypeError(
                    f"{name} must be a function from what a layer gives to (B, channels, height, width), "
                    f"got {turn!r}"
                )
            setattr(self, name, turn)

    def as_maps(
        self, student: Outputs, teacher: Outputs, ours: str, theirs: str
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the maps of a layer of each, None where it gives none.

        Raises
        ------
        LayerError
            As :meth:`Outputs.as_map`.
        """
        return student.as_map(ours, self.layout), teacher.as_map(
            theirs, self.teacher_layout, "teacher_layout"
        )


class FunctionLoss(Loss):
    """A loss made of a function ``(student, teacher, labels, rows)`` of both networks' logits."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def __call__(
        self, student: Outputs, teacher: Outputs | None, labels: Tensor | None, rows: Tensor
    ) -> Tensor:
        """Return what the function does."""
        return self.function(student, teacher, labels, rows)


def as_loss(loss: Loss | Callable[..., Tensor]) -> Loss:
    """Return a loss as it is, and a function of logits as one.

    Raises
    ------
    TypeError
        If `loss` is neither.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, (type, nn.Module)) or not callable(loss):
        raise TypeError(
            "loss must be a kdviz.distillation.Loss or a function (student, teacher, labels, rows), "
            f"got {loss!r}"
        )
    return FunctionLoss(loss)
