"""Classify a text as positive or negative, with probabilities.

python examples/classify.py "A charming film." [BUNDLE]

Without BUNDLE, the script runs the demo GPT-2, which knows only fairy tales. Its answer shows that
the script works, but it is not useful.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 2:
    sys.exit(__doc__)
text, *bundle = sys.argv[1:]
answer = load(*bundle).run("classification", text)
for label, probability in answer.probabilities.items():
    print(f"{probability:.1%} {label}")
