"""Answer a question from what the model knows.

python examples/recall.py "Who wrote Emma?" [BUNDLE]

The demo model, in the place of a BUNDLE, knows fairy tales alone: see that it works, no more.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 2:
    sys.exit(__doc__)
question, *bundle = sys.argv[1:]
print(load(*bundle).run("closed-book-question-answering", question).text)
