"""Tell whether a text is positive or negative.

python examples/classify.py "A charming film." [BUNDLE]

The demo model, in the place of a BUNDLE, knows fairy tales alone: see that it works, no more.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 2:
    sys.exit(__doc__)
text, *bundle = sys.argv[1:]
answer = load(*bundle).run("classification", text)
for label, probability in answer.probabilities.items():
    print(f"{probability:.1%} {label}")
