"""Tasks: their templates (the ``.toml`` files), and running them on texts and on files of inputs."""
