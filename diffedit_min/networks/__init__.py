"""The networks: U-Net, VAE and text encoder, and `StableDiffusion`, the bundle of the three."""
