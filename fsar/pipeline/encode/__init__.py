"""Videos to features: recipe, plan, engine."""
