"""What is made of B and a repaired net: the GoodNet."""
