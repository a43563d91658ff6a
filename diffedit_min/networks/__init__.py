"""The networks: U-Net, VAE and text encoder, and `StableDiffusion`, which holds the three."""
