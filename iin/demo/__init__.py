"""What finished runs can show: the page of ``iin-demo``, and the same without a browser.

A demo is a class that says what one may choose and shows a choice (`iin.demo.contract`); one file each. ``runs`` opens
runs and finds the demos that fit them, ``uploads`` reads pictures and videos of one's own, ``files`` writes what is
shown, and ``page`` draws it all in a browser: the only one that knows of Streamlit.
"""
