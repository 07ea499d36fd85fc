"""A trading desk on recorded prices: strategies, a risk check, fills and a valuation that compete for shared stores.

Run it with `python -m examples.trading_desk`. Read desk.py first; the other files say what they own in their first
lines.
"""
