"""Tasks: templates (the `.toml` files), running one on texts, and on files of inputs."""
