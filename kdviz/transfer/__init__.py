"""Which properties of a teacher its students share, though no loss asked for them.

Every property is one function ``f(networks, inputs, labels, *, teacher, independent, ...) -> Dataset`` of
values per network and sample; its attribute ``headline`` names the variable by which networks are compared.
What all take is checked in ``question``.
"""

from kdviz.transfer.adversarial import adversarial
from kdviz.transfer.agreement import bias, consensus
from kdviz.transfer.localization import localization
from kdviz.transfer.pixels import Pixels
from kdviz.transfer.question import Options, Question, ask

__all__ = ["Options", "Pixels", "Question", "adversarial", "ask", "bias", "consensus", "localization"]
