"""Correct the grammar of a sentence.

python examples/correct.py "He have two brother." [BUNDLE]

The demo model, in the place of a BUNDLE, knows fairy tales alone: see that it works, no more.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 2:
    sys.exit(__doc__)
text, *bundle = sys.argv[1:]
print(load(*bundle).run("grammar-correction", text).text)
