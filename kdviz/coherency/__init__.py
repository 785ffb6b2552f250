"""See which maps of a network survive a change of its weights that changes nothing it computes.

Between two layers with only ReLU, pooling and the like, one can be divided by a factor and the next one
multiplied by it. The network computes the same function; a map that moves therefore shows how the function
happens to be written down. :func:`find_pairs` finds such layers in any network, :func:`rescale` changes them,
:func:`prove_equal` compares the outputs, :func:`audit` the maps: attributions and the entropy.
:func:`kdviz.analysis.summarise_audits` puts what moved into one table.

Modules, each importing only from those before it: ``pairs``, ``rescaling``, ``maps``, ``audits``.
"""

from kdviz.coherency.audits import audit
from kdviz.coherency.maps import compare_maps, draw_maps
from kdviz.coherency.pairs import Pair, Survey, find_pairs, list_disjoint
from kdviz.coherency.rescaling import fold_batch_norm, output_difference, prove_equal, rescale

__all__ = [
    "Pair",
    "Survey",
    "audit",
    "compare_maps",
    "draw_maps",
    "find_pairs",
    "fold_batch_norm",
    "list_disjoint",
    "output_difference",
    "prove_equal",
    "rescale",
]
