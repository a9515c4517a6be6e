"""Answer a question from the model's own knowledge.

python examples/recall.py "Who wrote Emma?" [BUNDLE]

Without BUNDLE, the script runs the demo GPT-2, which knows only fairy tales. Its answer shows that
the script works, but it is not useful.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 2:
    sys.exit(__doc__)
question, *bundle = sys.argv[1:]
print(load(*bundle).run("closed-book-question-answering", question).text)
