"""The positions of highest estimated attention."""
