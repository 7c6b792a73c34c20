"""Pure codecs between the model and text: step results, tokens, problems, stored requests, ids."""
