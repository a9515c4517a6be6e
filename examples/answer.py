"""Answer a question from a text.

python examples/answer.py "Who wrote Emma?" "Emma is a novel by Jane Austen." [BUNDLE]

The demo model, in the place of a BUNDLE, knows fairy tales alone: see that it works, no more.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 3:
    sys.exit(__doc__)
question, context, *bundle = sys.argv[1:]
model = load(*bundle)
print(model.run("open-book-question-answering", question, context=context).text)
