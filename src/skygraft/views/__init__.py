"""Pictures of injected images: triplets, cut-outs, colours, regions; and a patch as one array."""
