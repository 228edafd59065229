/* What is written with less contrast to what is behind it than WCAG 2.2 asks for (1.4.3: 4.5), as a list. */
(() => {
  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const behind = (element) => (element ? [...behind(element.parentElement), getComputedStyle(element).backgroundColor] : []);
  const painted = (colours) => {
    context.fillStyle = "#fff";
    for (const colour of colours) {
      context.fillStyle = colour;
      context.fillRect(0, 0, 1, 1);
    }
    return context.getImageData(0, 0, 1, 1).data;
  };
  const luminance = ([red, green, blue]) => {
    const [r, g, b] = [red, green, blue].map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const words = [...document.querySelectorAll("body *")].filter(
    (element) =>
      [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim()) &&
      element.checkVisibility() &&
      !element.closest(".unseen, :disabled, :has(:disabled) > span, option"),
  );
  return words.flatMap((element) => {
    const colours = behind(element);
    const [ink, ground] = [[...colours, getComputedStyle(element).color], colours].map((each) => luminance(painted(each)));
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    return ratio < 4.5 ? [`${element.className} ${element.textContent.slice(0, 20)}: ${ratio.toFixed(2)}`] : [];
  });
})()
