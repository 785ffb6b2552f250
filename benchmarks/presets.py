"""What the named studies cost at each of their sizes; those of the papers also on GPUs, projected."""

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.reports import show_table, write_result
from kdviz.models import build
from kdviz.studies import Series, find_study, list_studies
from kdviz.studies.costs import ArmCosts, Item, Trials, estimate_costs, sum_costs

GPUS = 8
_UNCOUNTED = "not projected"  # where most of the time goes into the search for neighbours
_WORDS = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "good", "film")
_BATCH = 32  # of the step by which a GPU is timed


@dataclass(frozen=True)
class PresetPlan:
    """What is estimated.

    Attributes
    ----------
    studies, presets
        Names; all studies if there are none.
    teraflops
        Assumed of a GPU, in float32 and sustained; measured where there is one.
    """

    studies: tuple[str, ...] = ()
    presets: tuple[str, ...] = ("small", "paper")
    teraflops: float = 20.0


QUICK = PresetPlan(studies=("vii",), presets=("small",))


def run_presets(plan: PresetPlan, folder: Path | None = None, *, name: str = "presets") -> bool:
    """Estimate all, print and write it; nothing is trained, and nothing can be missed."""
    torch.set_num_threads(1)
    measured = torch.cuda.is_available()
    rate = time_device() if measured else plan.teraflops * 1e12
    with tempfile.TemporaryDirectory() as place:
        opened = dict(_open(plan, Path(place)))
        known, parts = Trials(), [part for series in opened.values() for part in _list_parts(series)]
        estimate_costs(parts, known)  # every network once, at the layers of all studies
        rows = []
        for (study, preset), series in opened.items():
            row = {"study": study, "preset": preset, "arms": len(series.arms)}
            row |= add_up(estimate_costs(_list_parts(series), known), rate if preset == "paper" else None)
            if preset == "paper" and any(arm.plan.data.modality == "cloud" for arm in series.arms):
                row |= {"gpu": _UNCOUNTED, "gpus": _UNCOUNTED}
            rows.append(row)
    show_table("networks, millions of passes, hours of one core, GB; hours on GPUs", rows)
    told = {"teraflops": rate / 1e12, "known": "measured" if measured else "assumed", "gpus": GPUS}
    write_result(name, asdict(plan), {"presets": rows, "rate": [told]}, folder)
    return True


def _open(plan: PresetPlan, place: Path) -> Iterator[tuple[tuple[str, str], Series]]:
    """Open studies in a folder where nothing is; of an encoder that is not there a stand-in is taken."""
    for name in plan.studies or list_studies():
        study = find_study(name)
        for preset in plan.presets:
            asked = study.presets[preset]
            changes = []
            if "encoder" in asked.model_dump_json():
                if not (place / "encoder").exists():
                    make_encoder(place / "encoder")
                encoder = json.dumps(str(place / "encoder"))
                changes = [f"{part}={encoder}" for part in ("networks.teacher.encoder", "data.tokenizer")]
            yield (name, preset), Series(name, study, study.arms(preset, changes), place / "runs", False)


def _list_parts(series: Series) -> list[Any]:
    left = series.left()
    return [(study, left[arm.name]) for arm, study in series.parts]


def add_up(arms: Sequence[ArmCosts], rate: float | None = None) -> dict[str, Any]:
    """Add up the costs of a study, and what its operations take at a rate of a GPU, per second.

    Several GPUs share everything but the longest chain: one network is trained on one GPU, a student after
    its teacher. What is measured of them is cut into blocks.
    """
    everything = [item for arm in arms for item in arm.items]
    cost = sum_costs(everything)
    row: dict[str, Any] = {
        "networks": sum_costs(everything, "train").networks,
        "passes": [count / 1e6 for count in cost.passes],
        "hours": [seconds / 3600 for seconds in cost.seconds],
        "petaflop": [flops / 1e15 for flops in cost.flops],
        "memory": cost.memory / 1e9,
        "disk": cost.disk / 1e9,
    }
    if rate is not None:
        chain = max((_find_chain(arm.items) for arm in arms), default=0.0) / rate / 3600
        alone = [flops / rate / 3600 for flops in cost.flops]
        row |= {"gpu": alone, "gpus": [max(hours / GPUS, chain) for hours in alone], "chain": chain}
    return row


def _find_chain(items: Iterable[Item]) -> float:
    """Return the operations of training an arm's teacher and the largest of its other networks after it."""
    by_role: dict[bool, list[int]] = {True: [0], False: [0]}
    for item in items:
        if item.kind == "train":
            by_role[item.task.subject.role == "teacher"].append(item.cost.flops[1])
    return max(by_role[True]) + max(by_role[False])


def make_encoder(folder: Path) -> None:
    """Write the config and weights of an untrained BERT-base, and a tokenizer of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(_WORDS)}, unk_token=_WORDS[0]))
    tokenizer.pre_tokenizer = Whitespace()
    ends = [(word, _WORDS.index(word)) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = dict(zip(("unk", "pad", "cls", "sep", "mask"), _WORDS, strict=False))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": word for name, word in names.items()}
    )
    wrapped.save_pretrained(folder)
    BertModel(BertConfig()).save_pretrained(folder)


def time_device() -> float:
    """Count the operations a second of training VGG-16 at 224 pixels, as far as FlopCounterMode counts."""
    network = build("vgg16", classes=100, input_size=224).cuda()
    batch = torch.rand(_BATCH, 3, 224, 224, device="cuda")
    counter = FlopCounterMode(display=False)
    with counter:
        network(batch).square().mean().backward()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(8):
        network(batch).square().mean().backward()
    torch.cuda.synchronize()
    return 8 * counter.get_total_flops() / (time.perf_counter() - start)
