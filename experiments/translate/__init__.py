"""The command that translates a sentence with stored weights of an encoder-decoder."""
