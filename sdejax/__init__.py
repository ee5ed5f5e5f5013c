"""sdejax: generative models on stochastic and ordinary differential equations in JAX."""
