import sys, time, re
import pytest
sys.path.insert(0,"tests")
import test_app_browser as T
t0=time.time()
def say(*a): print(f"{time.time()-t0:7.1f}",*a,flush=True)
def wrap(name):
    f=getattr(T.Person,name)
    def g(self,*a,**k):
        s=time.time()
        try: return f(self,*a,**k)
        finally: say("  took", name, a[:1], f"{time.time()-s:.1f}")
    setattr(T.Person,name,g)
for n in ("progress","press","download"): wrap(n)
from diffedit_min.app import page, session
o=session.Session.begin
def begin(self,kind): say("took begin",kind); return o(self,kind)
session.Session.begin=begin
o2=session.Session.end
def end(self,run): say("took end",run.rows,run.stop); return o2(self,run)
session.Session.end=end
o3=page.Answers.cancel
def cancel(self,s):
    r=o3(self,s); say("took cancel",list(s.runs),r if isinstance(r,str) else "skip"); return r
page.Answers.cancel=cancel
from test_app_browser import *
