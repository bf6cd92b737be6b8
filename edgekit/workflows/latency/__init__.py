"""latency: does an artifact meet each device's budget, and does the engine do its work well?"""
