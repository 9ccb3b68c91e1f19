"""Operations that XLA compiles badly on CPUs, written so that it does not."""
