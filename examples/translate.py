"""Translate a text into a language, with a bundle such as t5-small's, NLLB's or Opus-MT's.

python examples/translate.py "The house is wonderful." French t5-small-bundle
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 3:
    sys.exit(__doc__)
text, language, *bundle = sys.argv[1:]
print(load(*bundle).run("translation", text, target_language=language).text)
