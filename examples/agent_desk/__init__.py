"""A desk of agents behind a WebSocket gateway: chats become agents, prices stream in beside them, orders go out once.

Run it with `python -m examples.agent_desk`. Read desk.py first; the other files say what they own in their first lines.
"""
