"""``metagen benchmark``: measurements that take minutes to hours, and that anyone can repeat.

Those that a user of the package may want on their own data or machine are in here. The others are scripts in the
repository's benchmarks/, which the package does not carry; ``metagen benchmark`` runs them from a checkout.
"""
