"""What made the backbone that the package ships: drawn textures, and a training on them.

No photograph and no weight of others is behind it: each image is computed from random numbers and
the parameters of its family, in JAX, a batch at a time. From the repository's root:

    python -m scripts.pretrain_textures.train     the training, resumed where it stopped
    python -m scripts.pretrain_textures.bundle RUN    its result, put into the package
    python -m scripts.pretrain_textures.draw      docs/textures.jpg, after a change of a family
"""
