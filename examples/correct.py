"""Correct sentences, then take personal data out of them.

python examples/correct.py "He have called me at 555-0199." [BUNDLE]
"""

import sys

from edgeseq.runtime import load

text, *bundle = sys.argv[1:]
with load(*bundle) as model:
    corrected = model.run("grammar-correction", text).text
    print(corrected)
    print(model.run("anonymization", corrected).text)
