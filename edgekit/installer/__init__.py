"""The installer of a bundle, as it runs on a device: no network, no pip, no other package.

It is copied into every bundle, so it imports the standard library and itself (relative imports
only), is written for Python 3.9 and newer, and knows nothing of models or engines. It refuses
to change anything before the signature and every hash of a bundle have been checked.
"""
