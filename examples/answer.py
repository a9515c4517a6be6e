"""Answer a question, from a text if there is one.

python examples/answer.py "Who wrote Emma?" "Emma is a novel by Jane Austen." [BUNDLE]
"""

import sys

from edgeseq.runtime import load

question, context, *bundle = sys.argv[1:]
model = load(*bundle)
if context:
    print(model.run("open-book-question-answering", question, context=context).text)
else:
    print(model.run("closed-book-question-answering", question).text)
