"""Files that store the parameters of a model, in the safetensors format."""
