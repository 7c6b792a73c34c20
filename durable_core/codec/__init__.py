"""Pure codecs between the model and text: step results, stored records, tokens, event streams."""
