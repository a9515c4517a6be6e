"""The README and the pages of the documentation, and the files that their examples name.

Where an example names a checkpoint of the Hub, there is a folder of that name with the checkpoint
of a demo model.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "guides" / "train.md"  # tests/training/test_tutorial.py runs its blocks
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FOLDERS = {  # names in the pages, and what stands for them
    "gpt2": "demos/gpt2/checkpoint",
    "distilgpt2": "demos/gpt2/checkpoint",
    "t5-small": "demos/t5/checkpoint",
    "my-t5": "runtime/bundle/demos/t5",
    "benchmarks": "benchmarks",
}
TALE = "Once upon a time there was a king who had three sons. The youngest was called a fool. " * 40
PAIRS = "pronounce: fox\tF AA1 K S\nspell: K AE1 T\tcat\npronounce: king\tK IH1 NG\n"
FILES = {
    "text.txt": TALE,
    "training.txt": TALE,
    "calibration.txt": TALE,
    "held-out.txt": TALE,
    "wikitext2-test.txt": TALE,
    "newstest2013.en-de.tsv": PAIRS * 4,
    "newstest2014.en-de.tsv": PAIRS,
    "article.txt": "The king went home.",
    "articles.txt": "The king went home.\nThe fox stayed.\n",
    "reviews.csv": "review,target\nA fine film.,positive\nA dull film.,negative\n",
    "beginnings.txt": "The king\nThe fox\n",
}


def name_of(page: Path) -> str:
    """Return the path of a page in the repository."""
    return page.relative_to(ROOT).as_posix()


def lay_out(folder: Path, bundle: Path, nllb: Path) -> None:
    """Put the folders and files that the pages name into ``folder``."""
    folders = {name: ROOT / source for name, source in FOLDERS.items()}
    for name, source in {**folders, "my-fp32-bundle": bundle, "nllb": nllb}.items():
        (folder / name).symlink_to(source, target_is_directory=True)
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
