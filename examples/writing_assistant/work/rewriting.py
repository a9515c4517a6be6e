"""What an encoder-decoder model does with a selection: translate, summarize, spell and so on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from edgeseq.runtime import Model, PromptError

from .worker import Job

WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")
PHONEMES = re.compile(r"[A-Z]{1,2}[012]?(?: [A-Z]{1,2}[012]?)*")
WORDS_AT_ONCE = 8
# Everybody can spell these, but the demo model takes them for others that sound the same.
COMMON = (
    "a all am an and are as at be been but by can could did do for from go had has have he her his "
    "i if in is it me my no not of on one or our she so than that the their there they this to too "
    "two us was we were will with would you your"
)
LONGEST = 20_000  # characters; an encoder's memory grows with the square of its source
NEW_TOKENS = 256  # for bundles without a default of their own


class Rewrite(NamedTuple):
    """One thing that a model can do with a selection."""

    title: str
    hint: str
    do: Callable[[Rewriter, Job, str], Any]  # a coroutine function


class Rewriter:
    """A model that rewrites. Only the worker's thread uses it."""

    def __init__(self, model: Model, key: str) -> None:
        self.key = key
        self.model = model
        self.lock = asyncio.Lock()
        self.rewrites = rewrites_of(model, key)
        self.languages = languages_of(model)
        self.needs_source_language = "_to_" in "".join(model.bundle.manifest.task_specific_params)

    async def rewrite(self, job: Job, rewrite: Rewrite, text: str) -> str:
        """Return the rewritten text, and send its pieces."""
        check_length(text)
        async with self.lock:
            found: str = await rewrite.do(self, job, text)
        return found

    async def with_prompt(self, job: Job, prompt: str, text: str) -> str:
        """Return what the model makes of ``prompt``, whose ``{text}`` is the selection."""
        check_length(text)
        if "{text}" not in prompt:
            raise PromptError("The prompt needs {text}, where the selected text is put.")
        async with self.lock:
            return await stream(self, job, prompt.replace("{text}", text))

    async def translate(self, job: Job, text: str, source: str | None, target: str | None) -> str:
        """Return the translation, sentence by sentence with the layout of the text."""
        async with self.lock:
            if job.cancelled.is_set():
                return ""
            return await asyncio.to_thread(
                self.model.translate,
                text,
                source_language=source,
                target_language=target,
                batch_size=4,
                on_progress=job.progress,
                cancel=job.cancelled,
            )

    async def close(self) -> None:
        """Free the memory, once no call is under way."""
        async with self.lock:
            self.model.close()


def rewrites_of(model: Model, key: str) -> tuple[Rewrite, ...]:
    """Return what a model offers, apart from translation and prompts of the user."""
    if key == "demo:t5":
        return (
            Rewrite("Spell by sound", "Spell words as they are pronounced: fone, nite", _respell),
            Rewrite("Pronounce", "Write each word in phonemes of the ARPAbet", _pronounce),
            Rewrite("Spell phonemes", "Write the words of phonemes such as K AE1 T", _spell),
        )
    manifest = model.bundle.manifest
    plain = Rewrite("Rewrite", "The model reads the selection without a prompt", stream)
    if manifest.architecture not in ("t5", "mt5"):
        return (plain,)
    return (
        Rewrite("Summarize", "For a T5 that learned to summarize", _task("summarization")),
        Rewrite("Correct", "For a T5 that learned to correct", _task("grammar-correction")),
        plain,
    )


def languages_of(model: Model) -> list[tuple[str, str]]:
    """Return codes and names of the languages a model translates into; none if it cannot."""
    manifest = model.bundle.manifest
    form = manifest.tokenizer
    if form.languages is not None:
        codes: Sequence[str] = list(form.languages.ids)
    elif form.fixed_languages is not None:
        codes = list(form.fixed_languages.target_tokens) or [form.fixed_languages.target or ""]
    else:
        pairs = [
            re.fullmatch(r"translation_(\w+)_to_(\w+)", task)
            for task in manifest.task_specific_params
        ]
        codes = list(dict.fromkeys(code for pair in pairs if pair for code in pair.groups()))
    names = manifest.languages or {}
    named = [(code, names[code].name if code in names else code) for code in codes]
    return sorted(named, key=lambda pair: pair[1])


def check_length(text: str) -> None:
    """Raise ``PromptError`` for a selection that would need too much memory."""
    if len(text) > LONGEST:
        raise PromptError(
            f"The selection has {len(text):,} characters: select at most {LONGEST:,}, or "
            "translate, which reads sentence by sentence."
        )


async def stream(rewriter: Rewriter, job: Job, prompt: str) -> str:
    """Return the model's text for a prompt, and send its pieces."""
    if job.cancelled.is_set():
        return ""
    defaults = rewriter.model.bundle.manifest.generation
    has_limit = "max_new_tokens" in defaults or "max_length" in defaults
    limit = {} if has_limit else {"max_new_tokens": NEW_TOKENS}
    parts: list[str] = []
    pieces = rewriter.model.astream(prompt, cancel=job.cancelled, **limit)
    async with aclosing(pieces):
        async for piece in pieces:
            parts.append(piece)
            job.send(piece)
    return "".join(parts)


def _task(name: str) -> Callable[[Rewriter, Job, str], Any]:
    async def run(rewriter: Rewriter, job: Job, text: str) -> str:
        answer = await asyncio.to_thread(
            rewriter.model.run, name, text, max_new_tokens=NEW_TOKENS, cancel=job.cancelled
        )
        assert not isinstance(answer, list)
        return answer.text

    return run


async def _pronounce(rewriter: Rewriter, job: Job, text: str) -> str:
    return await _by_parts(rewriter, job, text, WORD, ["pronounce: "])


async def _spell(rewriter: Rewriter, job: Job, text: str) -> str:
    return await _by_parts(rewriter, job, text, PHONEMES, ["spell: "])


async def _respell(rewriter: Rewriter, job: Job, text: str) -> str:
    steps = ["pronounce: ", "spell: "]
    return await _by_parts(rewriter, job, text, WORD, steps, leave=COMMON.split())


async def _by_parts(
    rewriter: Rewriter,
    job: Job,
    text: str,
    part: re.Pattern[str],
    prefixes: Sequence[str],
    *,
    leave: Collection[str] = (),
) -> str:
    """Replace each match of ``part`` by the model's answer to each prefix in turn, in batches.

    The pieces keep what is between the matches, and words to ``leave``. A word with a capital keeps
    it.
    """
    found = [match for match in part.finditer(text) if match.group().lower() not in leave]
    if not found:
        raise PromptError("The selection has nothing that this model can rewrite: select words.")
    pieces: list[str] = []
    end = 0
    for first in range(0, len(found), WORDS_AT_ONCE):
        batch = found[first : first + WORDS_AT_ONCE]
        answers = [match.group() if part is PHONEMES else match.group().lower() for match in batch]
        for prefix in prefixes:
            if job.cancelled.is_set():
                return "".join(pieces)
            results = await asyncio.to_thread(
                rewriter.model.generate,
                [prefix + answer for answer in answers],
                cancel=job.cancelled,
            )
            answers = [result.text for result in results]
        for match, answer in zip(batch, answers, strict=True):
            is_title = prefixes[-1] == "spell: " and match.group()[0].isupper() and part is WORD
            piece = text[end : match.start()] + (answer.capitalize() if is_title else answer)
            pieces.append(piece)
            job.send(piece)
            end = match.end()
        job.progress(min(first + WORDS_AT_ONCE, len(found)), len(found))
    pieces.append(text[end:])
    job.send(text[end:])
    return "".join(pieces)
