"""What a text's activations say along the vectors: scores of tokens and documents, streams of documents."""
