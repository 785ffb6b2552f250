"""Runs on disk: one run is one Zarr directory while it is measured, one netCDF file once exported.

Layout: ``/points`` holds what all networks share (samples, units, masks), ``/points/<network>/<layer>`` the
measured variables of one layer, any other group a result with samples of its own. Arrays have their final
size from the start. They are filled in blocks of (1 epoch, `block` samples), and the flag
``done[epoch, block]`` is set after a block's data: a run killed at any moment goes on at the first block
without flag.

Beside a run lies ``<run>.lock``, an empty file: the lock that keeps two processes from writing at once. It
stays, because one that is removed while another process opens it would lock nobody out; while nothing writes
the run, whoever minds it may delete it.

Every file is written under a temporary name and renamed, so killing the writer leaves no half-written file;
nothing but `Run.export` forces data to the disk, so a power cut may cost blocks whose flag is set. Numbers
and attributes carry checksums in both formats, and a chunk that is missing from a run directory is an error,
never a fill value; an exported file ends in a checksum of the whole.

Modules, each importing only from those before it: ``replacing`` (folders take the place of others),
``sealing`` (descriptions that carry checksums), ``contents`` (what a run is to hold), ``damage`` (chunks that
are missing or changed), ``migrations`` (what older versions wrote), ``files`` (the two formats), ``layout``
(names, empty arrays, comparing settings, what a compact file leaves out), ``reading`` and ``run`` (the public
class), ``masks`` and ``descriptions`` (which come later), ``joining`` (several runs put into one). No torch
here: runs are viewed where none is installed.
"""

from kdviz.store.descriptions import describe
from kdviz.store.joining import join
from kdviz.store.masks import add_masks
from kdviz.store.run import Run, create_run, open_run

__all__ = ["Run", "add_masks", "create_run", "describe", "join", "open_run"]
