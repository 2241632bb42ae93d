"""The program: recipes, training, evaluation, the white box, sharing, and the reproduction of the paper."""
