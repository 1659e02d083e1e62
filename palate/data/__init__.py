"""From files to tokens: reading, recognising and checking data, chat templates, layouts and sampling."""
