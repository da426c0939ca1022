"""Recovery: detect and measure injected sources on the images, or match a pipeline's own catalogues."""
