"""Pictures from bytes to pixels and back: decoding within its limits, preprocessing, PNG, sheets of small ones."""
