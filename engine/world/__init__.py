"""The embedded world: emoji drawings by seven teams of artists, in six rendered styles.

Everything a picture of this world can hold is listed in `vocabulary`, drawn from `sprites`, put
together by `scenes` and rendered by `styles`. Since scenes are made, their contents are known
exactly: objects to erase, relations to invert and phrases to verify all have a ground truth.
"""
