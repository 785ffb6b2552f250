"""Say errors and notes as who types commands knows things: by options, where functions have arguments.

One table is made from the options of the command in use. Lines of ``study.yaml`` that an option sets are
followed by it, ``training.rate_factor (--rate-factor)``; arguments are replaced.
"""

import re
from collections.abc import Mapping

LINES = {
    "images": "data.images",
    "masks": "data.masks",
    "tokenizer": "data.tokenizer",
    "size": "data.size",
    "encoder": "networks.teacher.encoder",
    "teacher_epochs": "networks.teacher.epochs",
    "architecture": "networks.architecture",
    "layers": "networks.layers",
    "seeds": "training.seeds",
    "rate_factor": "training.rate_factor",
}
"""Lines of a plan that options of ``kdviz train`` set, by the names of its parameters; without ``data.file``
and others that mean something else in other kinds of data."""

_PHRASES = {  # of the library, and what is said instead where the command has the options
    r"pass pattern\b": "give {pattern}",
    r"with part:": "with {part}:",
    r"another network name\b": "another {name}",
    r"^device (?=')": "{device} ",
    r"^workers (?=must)": "{workers} ",
    r"^pattern (?=must)": "{pattern} ",
    r"^tokenizer (?=must)": "{tokenizer} ",
    r"pass device cuda\b": "give {device} cuda",
    r"pass overwrite=True \(--overwrite\)": "give {overwrite}",
    r"choose a coarser grid": "give a smaller {grid}",
    r"pass more samples or more resamples": "give more {samples}",
    r"pass max_batch=\d+": "choose a {device} with more memory, such as cpu",
    r"(?<![.\w])length=(?=\d)": "data.length=",
    r"and a smaller length$": "and a smaller length, {change} data.length=...",
    r"\(in study\.yaml, of data\)": "({change} data.foreground=[1], and so on)",
    r"pass entry, the name\b": "give {entry}, the name",
}
_BEYOND = re.compile(r"(?<![\w/.-])(feature|entry|layout|base_noise|max_batch|pixels)=(?!\S*/)")


def say(message: str, options: Mapping[str, str]) -> str:
    """Put options into a message.

    Parameters
    ----------
    message
        Of an error or a note.
    options
        Those of the command in use, by the names of its parameters: ``{"rate_factor": "--rate-factor"}``.
    """
    if "rate_factor" in options:
        for name, line in LINES.items():
            part, _, last = line.rpartition(".")
            place = rf"(?<![\w.]){re.escape(part)}(?:\.[a-z][\w-]*)?\.{last}\b(?!,? \(?--)(?![.=])"
            message = re.sub(place, rf"\g<0> ({options[name]})", message)
    for phrase, instead in _PHRASES.items():
        if set(re.findall(r"{(\w+)}", instead)) <= options.keys():
            message = re.sub(phrase, instead.format(**options), message)
    if found := _BEYOND.search(message):
        message += f" ({found[1]} is an argument of kdviz in Python, and no option here)"
    return message
