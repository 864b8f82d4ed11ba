"""Models of transformers: repositories and folders with `config.json` and `model.safetensors`."""
