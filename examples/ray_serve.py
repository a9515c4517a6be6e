"""Serve a bundle with replicas on a Ray cluster, for clients of OpenAI's API.

python examples/ray_serve.py my-bundle REPLICAS
"""

import sys

from ray import serve

from edgeseq.runtime import load
from edgeseq.serving import create_app

if len(sys.argv) < 3:
    sys.exit(__doc__)
bundle, replicas = sys.argv[1], int(sys.argv[2])
app = serve.ingress(lambda: create_app(load(bundle, threads=1)))()
deployment = serve.deployment(app, num_replicas=replicas, ray_actor_options={"num_cpus": 1})
serve.run(deployment.bind(), blocking=True)
