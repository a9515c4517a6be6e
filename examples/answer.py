"""Answer a question from a text.

python examples/answer.py "Who wrote Emma?" "Emma is a novel by Jane Austen." [BUNDLE]

Without BUNDLE, the script runs the demo GPT-2, which knows only fairy tales. Its answer shows that
the script works, but it is not useful.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 3:
    sys.exit(__doc__)
question, context, *bundle = sys.argv[1:]
model = load(*bundle)
print(model.run("open-book-question-answering", question, context=context).text)
