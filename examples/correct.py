"""Correct the grammar of a sentence.

python examples/correct.py "He have two brother." [BUNDLE]

Without BUNDLE, the script runs the demo GPT-2, which knows only fairy tales. Its answer shows that
the script works, but it is not useful.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 2:
    sys.exit(__doc__)
text, *bundle = sys.argv[1:]
print(load(*bundle).run("grammar-correction", text).text)
