# Odd orders: being written (orders of unusual size, sign and content).
