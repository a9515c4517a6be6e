"""Tasks: their templates (``.toml`` files), and running them on texts and files of inputs."""
