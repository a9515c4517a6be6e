"""Ways to damage a bundle, by what they damage.

Each is a function of a bundle's folder and a random generator. It changes the folder and returns
what it did, in a few words.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

Mutation = Callable[[Path, Random], str]
