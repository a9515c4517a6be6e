"""A text window that suggests in grey how your text continues.

    python examples/writing_window.py [BUNDLE]

Tab accepts the suggestion. Any other key removes it and cancels the generation. The model runs in
its own thread and in a session: when the text grows, the model reads only the new tokens.
"""

from __future__ import annotations

import queue
import sys
import threading
import tkinter
from typing import NamedTuple

from edgeseq.runtime import EdgeseqError, Model, load

WAIT_MS = 150  # time from a key press to the start of the generation
POLL_MS = 15
NEW_TOKENS = 16


class Request(NamedTuple):
    """A text to continue, and an event that cancels the generation."""

    text: str
    cancelled: threading.Event


class Completer:
    """A thread that continues the text of the last request.

    ``pieces`` holds the generated pieces, each with its request. Only the thread uses the session.
    """

    def __init__(self, model: Model) -> None:
        self.pieces: queue.SimpleQueue[tuple[Request, str]] = queue.SimpleQueue()
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._last = Request("", threading.Event())
        self._thread = threading.Thread(target=self._work, args=(model,))
        self._thread.start()

    def complete(self, text: str) -> Request:
        """Cancel the last request, and start to continue ``text``."""
        self.cancel()
        self._last = Request(text, threading.Event())
        self._requests.put(self._last)
        return self._last

    def cancel(self) -> None:
        """Cancel the current generation; it ends within a token."""
        self._last.cancelled.set()

    def close(self) -> None:
        """End the thread."""
        self.cancel()
        self._requests.put(None)  # more than once is harmless
        self._thread.join()

    def _work(self, model: Model) -> None:
        with model.session() as session:
            while (request := self._requests.get()) is not None:
                try:
                    for piece in session.stream(
                        request.text,
                        max_new_tokens=NEW_TOKENS,
                        truncation="sliding",  # the model reads the end of a long text
                        do_sample=False,
                        repetition_penalty=1.2,
                        cancel=request.cancelled,
                    ):
                        self.pieces.put((request, piece))
                except EdgeseqError as error:  # the next text may be served
                    print(error, file=sys.stderr)


class Window:
    """A text field, with the model's suggestion in grey after the text."""

    def __init__(self, model: Model) -> None:
        self.root = tkinter.Tk()
        self.root.title("edgeseq")
        self.root.configure(background="white")
        self.text = tkinter.Text(
            self.root,
            wrap="word",
            width=56,
            height=5,
            font=("", 14),
            borderwidth=0,
            highlightthickness=0,
            background="white",
        )
        self.text.tag_configure("grey", foreground="#8a8a8a")
        self.text.pack(expand=True, fill="both", padx=12, pady=10)
        self.text.bind("<Key>", self._on_key)
        self.text.bind("<Tab>", self._on_tab)
        self.text.bind("<Button>", lambda event: self._drop())
        self.root.protocol("WM_DELETE_WINDOW", self.close)
        self.completer = Completer(model)
        self._shown: Request | None = None
        self._begin = ""  # id of the timer that starts a request
        self._poll()

    def close(self) -> None:
        """End the thread and close the window."""
        self.completer.close()
        self.root.destroy()

    def _on_key(self, event: object) -> None:
        self._drop()
        if self._begin:
            self.root.after_cancel(self._begin)
        self._begin = self.root.after(WAIT_MS, self._ask)

    def _on_tab(self, event: object) -> str:
        self.text.tag_remove("grey", "1.0", "end")
        self._drop()
        self.text.mark_set("insert", "end")
        self._begin = self.root.after(WAIT_MS, self._ask)
        return "break"  # do not insert a tab

    def _ask(self) -> None:
        written = self.text.get("1.0", "end-1c")
        at_the_end = self.text.compare("insert", "==", "end-1c")
        if written.strip() and at_the_end:
            self._shown = self.completer.complete(written)

    def _drop(self) -> None:
        """Cancel the generation, and remove the suggestion."""
        self.completer.cancel()
        self._shown = None
        while grey := self.text.tag_nextrange("grey", "1.0"):
            self.text.delete(*grey)

    def _poll(self) -> None:
        while not self.completer.pieces.empty():
            request, piece = self.completer.pieces.get()
            if request is self._shown:
                place = self.text.index("insert")
                self.text.insert("end-1c", piece, "grey")
                self.text.mark_set("insert", place)
        self.root.after(POLL_MS, self._poll)


if __name__ == "__main__":
    window = Window(load(*sys.argv[1:]))
    try:
        window.root.mainloop()
    finally:  # also after Ctrl-C in the terminal
        window.completer.close()
