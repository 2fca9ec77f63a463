"""A companion's world, made by seed: what people tell an assistant about their lives, and ask it later (`source: companion`)."""
